"""Images and labels in the forms people have, and how they become a backbone's input."""
