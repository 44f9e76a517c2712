"""RecBole models: the teachers (TIGER, CausalSID) and the students distilled from it (SIDMLP, SIDMLPPlusPlus)."""
