"""How fast is a mount, beside the file system that its store lies on and beside other ones?"""
