"""RecBole models: the teacher (TIGER) and the students distilled from it (SIDMLP, SIDMLPPlusPlus)."""
