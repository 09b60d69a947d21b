"""Networks, losses, flows and samplers: torch and timm only."""
