"""What attacks share and users never see."""
