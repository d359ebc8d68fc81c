"""The console: pages made on the server for people, at the people door's root (docs/adr/0020).

`pages` renders, `language` chooses and translates, `words` holds the words for codes, `marks` makes what an attacker may
have written inert. Every other module is one subject: its pages, its forms, and the view model that they show.
"""
