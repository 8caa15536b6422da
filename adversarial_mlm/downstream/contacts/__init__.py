"""Contacts predicted from attention maps: `task: contacts`."""
