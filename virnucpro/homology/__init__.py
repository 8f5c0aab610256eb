"""What known proteins say about a sequence: its translated stretches, searched against reference
proteins. Without torch; all arrays are numpy's.
"""
