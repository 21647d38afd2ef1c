"""What goals, norms, losses and models stand on, and users never see."""
