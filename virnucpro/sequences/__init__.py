"""Text to frames: reading, chunking, translating, tokenizing."""
