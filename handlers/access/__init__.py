"""Access: who may connect, how many clients, with which rights, and until when."""
