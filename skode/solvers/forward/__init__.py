"""The forward solve: steps, their sizes, and the outputs read off them."""
