"""The technologies runs can live in. Each implements `everstep.ports`; the same role has the same file name in each."""
