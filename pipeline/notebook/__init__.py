"""What ``import whymatch`` offers: a bundle that explains pairs here and now, and runs read back as tables."""
