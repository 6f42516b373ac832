"""What tests of several folders share, by idea."""
