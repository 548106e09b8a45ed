"""The forward solve: steps, their sizes, and what is read off them."""
