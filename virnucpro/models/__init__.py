"""Weights to encoders: bundles, ESM-2, DNABERT-S, the classifier."""
