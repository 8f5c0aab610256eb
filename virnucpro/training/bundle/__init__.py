"""Training of a whole small bundle: both encoders and the classifier."""
