"""The way of mattes to people and back."""
