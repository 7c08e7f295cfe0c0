"""The entries of each kind of settings file: tables only, a module for each kind of file. May
import model/inventory/table.py."""
