"""Reading released checkpoints: parameter names and safe loading."""
