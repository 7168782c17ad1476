"""Small programs that store lines, good ones and bad ones: the subjects of the self-check and of the comparison."""
