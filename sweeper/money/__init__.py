"""Money: what a device second costs, where every one of them went, and what may still be spent."""
