"""Search spaces: what can be chosen, as genes, and what a choice builds."""
