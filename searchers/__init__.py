"""What to try next: strategies that propose candidates, and the pure rules of halving."""
