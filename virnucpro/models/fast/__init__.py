"""Encoders faster than the stock layers, chosen by device; equal to them within stated bounds."""
