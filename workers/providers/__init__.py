"""Who writes tokens: one module a dialect, one seam (`base.Provider`)."""
