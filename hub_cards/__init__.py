"""Templates of the cards that published repositories open with."""
