"""Who may come in, how many of them, with which rights and until when."""
