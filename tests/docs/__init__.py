"""Tests of the documentation: pages, links, and the code in them."""
