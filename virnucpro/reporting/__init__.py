"""Answers to files: tables, FASTA, report, progress."""
