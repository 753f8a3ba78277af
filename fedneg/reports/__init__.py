"""What a person sees: the terminal, pages, tables and figures."""
