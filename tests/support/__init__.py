"""What tests share and no user needs: the judging of results against what is known to be true."""
