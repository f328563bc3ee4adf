"""Networks: backbones, heads, the depth of a parameter, and which output is taken."""
