"""The loop around the steps: Trainer, checkpoints, interruption, evaluation, tracking. Knows no rows or templates."""
