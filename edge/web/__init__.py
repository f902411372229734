"""The live views: the state they show, the page at /, and the table in the terminal."""
