"""A run as it happens: what it is to do, its state on disk, how it stops, its clock."""
