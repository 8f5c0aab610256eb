"""What looks after an installation: doctor, verify, benchmark, random models."""
