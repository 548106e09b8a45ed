"""Vector fields as the engine sees them."""
