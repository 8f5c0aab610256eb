"""What stands between an option and a library call: one module a command."""
