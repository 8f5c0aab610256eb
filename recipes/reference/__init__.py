"""How the reference proteins and the weights of their evidence were made."""
