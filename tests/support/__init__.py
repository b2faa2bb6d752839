"""What tests are made with; none of it knows the program under test."""
