"""What trains, reads out and measures encoders. torch lives here."""
