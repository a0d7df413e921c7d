"""What wrappers are made of: networks, proxy losses, models cut in two, chosen views."""
