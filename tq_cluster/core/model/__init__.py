"""Operations and outcomes, states, ids, limits. Imports no other package of ``core``."""
