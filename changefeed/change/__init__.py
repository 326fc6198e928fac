"""What a change is: its row, its JSON, how much of it is shown, and the gap where changes are missing."""
