"""The generated world: cartoon people in drawn scenes, with exact masks and captions.

people    who somebody is (Identity) and how they look in a picture (Look)
scenes    places at times of day, drawn with Pillow
props     what a person holds
captions  sentences with `<|image|>` behind the person's noun
samples   one picture with everything that is known about it, from (recipe, split, index)
store     samples as memory-mapped arrays on disk
"""
