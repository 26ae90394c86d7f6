"""The pages of LMDB's data file: their layout, and checks of them without LMDB."""
