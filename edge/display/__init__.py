"""The phone page and the small web server that hands it out."""
