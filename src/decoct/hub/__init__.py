"""What goes to the Hugging Face Hub, and how it looks there."""
