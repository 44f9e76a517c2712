"""From raw data to RecBole's atomic files."""
