"""The generated world: cartoon people in drawn scenes, with exact masks and captions.

people    who somebody is (Identity) and how they look in a picture (Look)
scenes    places at times of day and in weather, drawn with Pillow
props     what a person holds, does or wears for one picture
styles    how the whole picture looks
captions  sentences with `<|image|>` behind the person's noun, and the vocabulary they use
held_out  the sentences of evaluation, and the combinations that no training picture shows
samples   one picture with everything that is known about it, from (recipe, split, index)
store     samples as memory-mapped arrays on disk
"""
