"""Tests that compare the files of deploy/ with the product."""
