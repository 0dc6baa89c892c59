"""How the processes of one model are laid out and talk."""
