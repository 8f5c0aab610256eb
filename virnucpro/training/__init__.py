"""Labelled genomes to a bundle: prepare, train, evaluate, calibrate."""
